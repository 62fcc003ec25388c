"""The operators that ask no model: what each makes of a row's values, wherever these come from."""
