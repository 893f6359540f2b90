FROM empty
ENV A=b
