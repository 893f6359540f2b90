FROM busybox
RUN <<"a/b"
#!/bin/sh
a/b
RUN <<..
#!/bin/sh
..
