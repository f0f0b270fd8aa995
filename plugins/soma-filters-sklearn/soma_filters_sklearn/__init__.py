"""soma_filters_sklearn: scikit-learn's estimators as soma filters, each under its own name.

Nothing is imported from scikit-learn until a filter class is asked for, as in
``soma_filters_sklearn.estimators.StandardScaler``.
"""
