ARG A=1
# comment

ARG B=$A C
FROM a
