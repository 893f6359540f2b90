FROM debian AS tools
RUN make-tools
FROM onbuild-from
