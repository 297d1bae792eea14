# Stages answer for regions instead of the image: in blood cells nearly every image holds every class, so which classes
# an image holds says next to nothing.
_base_ = "./_mtkd_ssr.py"

mtkd_ssr = dict(exits=dict(type="kd_mm.RoIExit"))
