FROM a
COPY <<a.txt <<-"b.txt" c.txt /dir/
A $x
a.txt
		B $x
	b.txt
ADD --chmod=644 <<EOF /x
EOF
COPY << EOF /spaced
x
EOF
COPY <<'one two' /quoted
1
one two
COPY <<EOF <<EOF /same/
first
EOF
second
EOF
COPY ["<<EOF", "/x"]
