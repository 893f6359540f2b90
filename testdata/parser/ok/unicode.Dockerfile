# ☃
FROM a
LABEL ☃="♥ ü" größe=x
COPY --from=ü ☃ /
RUN echo ☃ \
  ♥
ENV a=1 b=2
