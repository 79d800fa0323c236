"""From finished runs to something a person reads: statistics, figures, verdicts, executed notebooks, HTML."""
