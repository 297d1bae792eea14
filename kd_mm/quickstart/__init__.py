"""The quickstarts: generated data sets, and what runs them and draws their tables. Nothing else imports this."""

from kd_mm.quickstart.digit_scenes import DigitScenes
from kd_mm.quickstart.digits import Digits
from kd_mm.quickstart.people import People

__all__ = ["DigitScenes", "Digits", "People"]
