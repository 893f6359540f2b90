FROM a
ONBUILD RUN <<EOF
echo a
EOF
ONBUILD COPY --chown=1 <<-A <<B /x/
	a
	A
b
B
RUN after
