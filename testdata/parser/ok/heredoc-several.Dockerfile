FROM a
RUN cat <<A - <<"B" <<-C
a
A
$b
B
	c
	C
RUN next
