FROM a
RUN one \
  two\
three \   
	four
RUN one \\
RUN one \\\
RUN x \\ \
 y
ENV a=b \
    c=d
  RUN indented \
\
  end
RUN at-end-of-file \