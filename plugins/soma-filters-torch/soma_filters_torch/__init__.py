"""soma_filters_torch: torch modules as soma filters that train in their own process.

torch is imported by ``soma_filters_torch.filters``, where the filter classes are, and not here.
"""
