FROM a
COPY ☃ ♥ --x \
   /ü
COPY --ü=1 ☃ \
  /x
ENV ♥=1 \
 ☃
