//! Fields that several request bodies share.
//!
//! A macro adds them to each body: with `#[serde(flatten)]` an error in one of them would lose its path.

/// Defines a body with its own fields, followed by those that all generating endpoints share.
macro_rules! with_generation_fields {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $($fields:tt)*
        }
    ) => {
        $(#[$attribute])*
        $visibility struct $name {
            $($fields)*

            #[schemars(with = "Option<crate::http::openapi::ChatModel>")]
            pub(super) model: Option<String>,
            /// Whether the answer comes as server-sent events.
            pub(super) stream: Option<bool>,
            #[schemars(transform = crate::http::openapi::within(crate::inference::bounds::TEMPERATURE))]
            pub(super) temperature: Option<f64>,
            #[schemars(transform = crate::http::openapi::within(crate::inference::bounds::PROBABILITY))]
            pub(super) top_p: Option<f64>,
            /// Not OpenAI's for responses.
            #[schemars(transform = crate::http::openapi::within(crate::inference::bounds::PENALTY))]
            pub(super) presence_penalty: Option<f64>,
            /// Not OpenAI's for responses.
            #[schemars(transform = crate::http::openapi::within(crate::inference::bounds::PENALTY))]
            pub(super) frequency_penalty: Option<f64>,
            /// Token ids and what is added to their likelihood. Not OpenAI's for responses.
            #[schemars(with = "Option<crate::http::openapi::LogitBias>")]
            pub(super) logit_bias: Option<serde_json::Map<String, serde_json::Value>>,
            /// The same seed gives the same draws; whether it gives the same answer, bit by bit, while
            /// others are served is up to the server's `models.deterministic`. Not OpenAI's for responses.
            pub(super) seed: Option<i64>,
            /// Not OpenAI's for responses.
            pub(super) stop: Option<crate::openai::generation_params::Stop>,
            #[schemars(transform = crate::http::openapi::among(crate::openai::generation_params::TIERS.map(|(name, _)| name)))]
            pub(super) service_tier: Option<String>,
            #[schemars(length(max = crate::inference::bounds::LONGEST_ID))]
            pub(super) user: Option<String>,
            /// Draw from so many of the likeliest tokens; 0 and -1 mean all. Not OpenAI's.
            #[schemars(transform = crate::http::openapi::at_least(crate::inference::bounds::LEAST_TOP_K))]
            pub(super) top_k: Option<i64>,
            /// Leave tokens out that are less likely than the likeliest by this factor. Not OpenAI's.
            #[schemars(transform = crate::http::openapi::within(crate::inference::bounds::PROBABILITY))]
            pub(super) min_p: Option<f64>,
            /// What likelihoods of tokens that were there already are divided by; 1 is off. Not OpenAI's.
            #[schemars(transform = crate::http::openapi::within(crate::inference::bounds::REPEAT_PENALTY))]
            pub(super) repeat_penalty: Option<f64>,
            /// Whether to go on where the model would end. Not OpenAI's.
            pub(super) ignore_eos: Option<bool>,
            /// Tokens that end the answer. Not OpenAI's.
            #[schemars(
                length(max = crate::inference::bounds::MOST_TOKEN_IDS),
                transform = crate::http::openapi::each(crate::http::openapi::within(crate::inference::bounds::TOKEN_ID)))]
            pub(super) stop_token_ids: Option<Vec<i64>>,
        }

        impl $name {
            /// Checks the shared fields. All other parameters have their defaults.
            pub(super) fn generation_params(
                &mut self,
            ) -> Result<crate::inference::params::GenerationParams, crate::http::error::ApiError> {
                crate::openai::generation_params::SharedValues {
                    sampling: crate::inference::sampling::SamplingValues {
                        temperature: self.temperature,
                        top_p: self.top_p,
                        top_k: self.top_k,
                        min_p: self.min_p,
                        presence_penalty: self.presence_penalty,
                        frequency_penalty: self.frequency_penalty,
                        repeat_penalty: self.repeat_penalty,
                        logit_bias: self.logit_bias.as_ref(),
                        seed: self.seed,
                    },
                    stop: self.stop.take(),
                    stop_token_ids: self.stop_token_ids.take(),
                    ignore_eos: self.ignore_eos,
                    service_tier: self.service_tier.as_deref(),
                }
                .check()
            }
        }
    };
}

/// Defines a body with its own fields, followed by the shared ones and those for structured outputs.
macro_rules! with_structured_output_fields {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $($fields:tt)*
        }
    ) => {
        crate::openai::shared_fields::with_generation_fields! {
            $(#[$attribute])*
            $visibility struct $name {
                $($fields)*

                /// A JSON schema of the answer or any JSON object, as in vLLM. Not OpenAI's.
                pub(super) structured_outputs: Option<crate::openai::structured_outputs::StructuredOutputs>,
                /// A JSON schema of the answer, or one in a string: vLLM's older name. Not OpenAI's.
                pub(super) guided_json: Option<serde_json::Value>,
                /// A JSON schema of the answer: llama.cpp's name. Not OpenAI's.
                pub(super) json_schema: Option<serde_json::Value>,
                /// Refused: answers are held to JSON schemas alone.
                #[schemars(with = "Option<crate::http::openapi::NullOnly>")]
                pub(super) guided_regex: Option<serde_json::Value>,
                /// Refused; use `guided_json` with an `enum`.
                #[schemars(with = "Option<crate::http::openapi::NullOnly>")]
                pub(super) guided_choice: Option<serde_json::Value>,
                /// Refused: answers are held to JSON schemas alone.
                #[schemars(with = "Option<crate::http::openapi::NullOnly>")]
                pub(super) guided_grammar: Option<serde_json::Value>,
                /// Refused: answers are held to JSON schemas alone.
                #[schemars(with = "Option<crate::http::openapi::NullOnly>")]
                pub(super) grammar: Option<serde_json::Value>,
            }
        }

        impl $name {
            /// Returns the schema that the answer must fit. `format` is the schema of `response_format`.
            pub(super) fn schema(
                &mut self,
                format: Option<crate::grammar::Schema>,
            ) -> Result<Option<crate::grammar::Schema>, crate::http::error::ApiError> {
                crate::openai::structured_outputs::StructuredOutputFields {
                    structured_outputs: self.structured_outputs.take(),
                    guided_json: self.guided_json.take(),
                    json_schema: self.json_schema.take(),
                    others: [
                        ("guided_regex", self.guided_regex.take()),
                        ("guided_choice", self.guided_choice.take()),
                        ("guided_grammar", self.guided_grammar.take()),
                        ("grammar", self.grammar.take()),
                    ],
                }
                .schema(format)
            }
        }
    };
}

pub(crate) use {with_generation_fields, with_structured_output_fields};
