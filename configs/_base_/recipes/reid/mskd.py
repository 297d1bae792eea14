# MSKD for re-identification: exit i, a row of identity logits, follows exit i of the teacher; identity and
# metric losses at their full weight. All of it is our reading.
_base_ = ["../mskd.py"]

mskd = dict(exits=dict(type="kd_mm.BNNeckExit"), student_loss_weight=1.0)
