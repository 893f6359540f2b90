FROM busybox
ENV abc=hello
ENV abc=bye def=$abc
ENV ghi=$abc
ENV old style value
RUN true
