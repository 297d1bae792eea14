# MAG beside identity and metric losses at their full weight, as beside a loss on features (mag_features).
_base_ = ["../mag.py"]

mag = dict(losses=dict(kd=dict(loss_weight=1.0)), student_loss_weight=1.0)
