"""Numbers to pictures and pages: figures, one HTML page a run, a model card, the checklists of journals."""
