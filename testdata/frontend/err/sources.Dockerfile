FROM busybox
COPY https://example.com/x /x
COPY git@github.com:a/b.git /x
COPY https://github.com/a/b.git#main /x
COPY <<"a/b" /x
EOF
a/b
