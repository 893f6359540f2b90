FROM busybox
ENV NAME=world
COPY <<one.txt <<"two.txt" plain /dir/
it's "$NAME" \$NAME
one.txt
not $NAME
two.txt
COPY --chmod=755 <<-EOF /script
	#!/bin/sh
		echo ${NAME}
	EOF
