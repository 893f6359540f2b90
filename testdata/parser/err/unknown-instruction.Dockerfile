FORM a
RUN x
FROM a
RNU x
coppy a b
// comment
FR OM
something else
RUM <<EOF
FROM x
EOF
