echo mine > r
