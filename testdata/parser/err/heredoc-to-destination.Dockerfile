FROM a
COPY a <<EOF
x
EOF
ADD <<A <<B
A
B
