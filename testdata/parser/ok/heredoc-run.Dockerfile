FROM a
RUN <<EOF
echo $x
  # kept

EOF
RUN <<-'END' python3 && cat <<X
	print('a')
	END
X2
 X
X
RUN 3<<EOF cat <&3
EOF
RUN ["<<EOF"]
RUN cat <<<word '<<EOF' a<<EOF
RUN \
 <<EOF \
 && true
x
EOF
RUN echo don't <<EOF
