FROM a
USER <<EOF
CMD cat <<EOF
ENTRYPOINT cat <<EOF
RUN echo ${x^^} <<EOF
RUN echo "${x[@]}" <<EOF
