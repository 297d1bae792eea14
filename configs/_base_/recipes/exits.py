# A network with exits on its stages, trained together by their task loss (deep supervision), without a teacher: what
# `kd-mm train CONFIG --with-exits` trains. As a teacher it brings the exits that MTKD-SSR and MSKD read.
_base_ = ["./mtkd_ssr.py"]

exits = dict(exits={{_base_.mtkd_ssr.exits}}, losses=dict(aux={{_base_.mtkd_ssr.losses.aux}}))
