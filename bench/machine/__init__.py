"""This computer: its cores, its GPU, the locks on its devices."""
