"""Trainers fine-tune models. There is one file per trainer; _trl.py is shared."""
