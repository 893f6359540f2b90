FROM busybox
ARG A=1
RUN <<EOF
echo first $A
echo second
EOF
RUN <<-EOF
	tabbed
	EOF
RUN <<EOF cat
text for cat
EOF
RUN cat <<A <<"B" > /out
a
A
b
B
SHELL ["/bin/bash", "-c"]
RUN <<EOF
one line
EOF
