FROM a
SHELL
SHELL []
SHELL bash -c
SHELL ["a" "b"]
SHELL ['a']
