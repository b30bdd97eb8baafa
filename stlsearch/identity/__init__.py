"""When two exact algorithms are one: invariants, a decision with a certificate, and their groups of symmetries."""
