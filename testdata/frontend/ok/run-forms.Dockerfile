FROM busybox
RUN ["echo", "$HOME", "a b"]
RUN ['echo', 'not json']
RUN echo   a   b
RUN echo a \
  # comment
  && echo b
