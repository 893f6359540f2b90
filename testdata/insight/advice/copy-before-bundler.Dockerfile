#> Gemfile 1000
#> Gemfile.lock 1000
#> .ruby-version 1000
#> app.rb 1000
FROM ruby
WORKDIR /app
COPY . .
RUN bundle config set without development && bundle install
