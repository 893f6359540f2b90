FROM busybox
COPY --from=debian /a /a
ADD <<EOF /text
x
EOF
