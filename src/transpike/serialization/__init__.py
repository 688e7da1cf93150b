"""How records, tensors and facts about a network become files."""
