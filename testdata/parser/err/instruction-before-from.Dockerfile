ARG A
RUN x
ENV a=b
FROM a
RUN --foo y
