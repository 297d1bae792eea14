# MSKD for re-identification: exit i, a row of identity logits, follows the teacher's own logits; identity and
# metric losses at their full weight. All of it is our reading.
_base_ = ["../mskd_final.py"]

mskd_final = dict(exits=dict(type="kd_mm.BNNeckExit"), student_loss_weight=1.0)
