FROM a
RUN echo # not a comment
ENV A=#b C="# d"
  # a comment, indented
COPY #x /y
