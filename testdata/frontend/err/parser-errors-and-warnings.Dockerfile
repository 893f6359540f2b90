FROM busybox
RUNN x
COPY a
RUN a \

  b
