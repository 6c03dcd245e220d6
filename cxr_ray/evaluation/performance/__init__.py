"""How good the scores are: measures with intervals, combination rules, subgroups, curves."""
