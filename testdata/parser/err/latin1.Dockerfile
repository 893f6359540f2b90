FROM a
RUN echo André André
RUN <<EOF
# André
EOF
