# PKD on the three levels of this pyramid.
_base_ = "../../_base_/recipes/detection/pkd.py"

pkd = dict(losses=dict(pkd=dict(stages=[1, 2, 3])))
