_base_ = "./_digits.py"
