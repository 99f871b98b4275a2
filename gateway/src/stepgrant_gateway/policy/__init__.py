"""The policy directory: catalog, schema, sets, index, evaluation, cases."""
