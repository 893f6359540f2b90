FROM a
RUN --timeout=5 x
RUN --timeout=1us x
RUN --retry=-1 x
RUN --retry=often x
RUN --retries=3 x
RUN --timeut=3s x
RUN --network=hots x
RUN --security=sandbx x
RUN --retry=1 --retry=2 x
