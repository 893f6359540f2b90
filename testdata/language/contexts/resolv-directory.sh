mkdir l
touch l/x
