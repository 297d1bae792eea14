# MAS beside identity and metric losses at their full weight, as beside a loss on features (mas_features).
_base_ = ["../mas.py"]

mas = dict(losses=dict(stable=dict(loss_weight=1.0)), student_loss_weight=1.0)
