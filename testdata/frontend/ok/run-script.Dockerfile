FROM busybox
ENV A=1
RUN <<EOF
#!/usr/bin/env python3
print("$A")
EOF
RUN <<-"END.py"
	#!/usr/bin/python3
	print(2)
END.py
RUN --mount=type=bind,target=/x <<S
#!/bin/sh
true
S
RUN <<EOF
 #!/bin/not
EOF
RUN <<A cat <<B
#!/a
A
b
B
SHELL ["/bin/bash", "-ec"]
RUN <<EOF
#!/bin/sh
EOF
