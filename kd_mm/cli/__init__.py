"""Command lines: ``kd-mm COMMAND`` and ``python tools/NAME.py``. Importing one imports neither torch nor mmdet."""
