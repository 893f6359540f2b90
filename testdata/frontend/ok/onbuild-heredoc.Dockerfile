FROM onbuild-heredoc
