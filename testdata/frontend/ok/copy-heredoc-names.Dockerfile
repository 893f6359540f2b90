FROM busybox
ENV A=1
COPY <<one <<"two" /d/
$A "q"
one
$A
two
COPY <<-tabs /t
	a
	  b
	tabs
