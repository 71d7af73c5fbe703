"""The frozen values that pass between the steps, and the reports that they write; nothing is read or drawn here."""
