FROM a
RUN --timeout=1m30s --retry=3 make
RUN --timeout=0 x
